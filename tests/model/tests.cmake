# The real model is 93 MB, fetched once into the build folder by the script that `make run` uses too.
add_executable(check_smollm2 ${CMAKE_SOURCE_DIR}/tests/model/check_smollm2.c)
target_compile_definitions(check_smollm2 PRIVATE MODEL_TEST_DATA_DIR="${CMAKE_SOURCE_DIR}/tests/model/data")
target_include_directories(check_smollm2 PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(check_smollm2 PRIVATE shoal_model)
add_test(NAME model/check_smollm2
         COMMAND sh -c "model=$(${CMAKE_SOURCE_DIR}/scripts/fetch-model.sh ${CMAKE_BINARY_DIR}/models) && exec $<TARGET_FILE:check_smollm2> \"$model\"")
set_tests_properties(model/check_smollm2 PROPERTIES LABELS data TIMEOUT 600)
# Minutes under a sanitizer; engine/test_splits runs the same code there.
set_tests_properties(model/test_golden model/test_invariance PROPERTIES LABELS golden)
