add_executable(model_bench ${CMAKE_CURRENT_LIST_DIR}/model_bench.c)
target_link_libraries(model_bench PRIVATE shoal_model)
