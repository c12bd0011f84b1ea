# The real tokenizers against Hugging Face's library over 12 MB of mixed text: fetched and installed by the test.
add_executable(tokenizer_encode ${CMAKE_CURRENT_LIST_DIR}/tokenizer_encode.c)
target_link_libraries(tokenizer_encode PRIVATE shoal_text)
add_test(NAME text/tokenizer_differential
  COMMAND ${CMAKE_CURRENT_LIST_DIR}/diff_tokenizer.sh $<TARGET_FILE:tokenizer_encode> ${CMAKE_CURRENT_LIST_DIR} ${CMAKE_SOURCE_DIR}/scripts
          ${CMAKE_BINARY_DIR})
set_tests_properties(text/tokenizer_differential PROPERTIES LABELS data TIMEOUT 600)
