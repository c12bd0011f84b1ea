add_executable(perplexity ${CMAKE_CURRENT_LIST_DIR}/perplexity.c)
target_link_libraries(perplexity PRIVATE shoal_model shoal_text)
