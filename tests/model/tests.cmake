# The real model is 93 MB, fetched once into the build folder by the script that `make run` uses too.
add_executable(check_smollm2 ${CMAKE_SOURCE_DIR}/tests/model/check_smollm2.c)
target_compile_definitions(check_smollm2 PRIVATE MODEL_TEST_DATA_DIR="${CMAKE_SOURCE_DIR}/tests/model/data")
target_include_directories(check_smollm2 PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(check_smollm2 PRIVATE shoal_model)
add_test(NAME model/check_smollm2
         COMMAND sh -c "model=$(${CMAKE_SOURCE_DIR}/scripts/fetch-model.sh ${CMAKE_BINARY_DIR}/models) && exec $<TARGET_FILE:check_smollm2> \"$model\"")
set_tests_properties(model/check_smollm2 PROPERTIES LABELS data TIMEOUT 600)
# Minutes under a sanitizer; engine/test_splits runs the same code there.
set_tests_properties(model/test_golden model/test_invariance model/test_many_ranks PROPERTIES LABELS golden)
# Mixtures made of the same model: its FFN in six parts that are all active, and six copies of it of which two are.
add_executable(check_mixture ${CMAKE_SOURCE_DIR}/tests/model/check_mixture.c)
target_compile_definitions(check_mixture PRIVATE MODEL_TEST_DATA_DIR="${CMAKE_SOURCE_DIR}/tests/model/data")
target_include_directories(check_mixture PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(check_mixture PRIVATE shoal_model)
add_test(NAME model/check_mixture
         COMMAND ${CMAKE_SOURCE_DIR}/tests/model/check_mixture.sh ${CMAKE_BINARY_DIR} $<TARGET_FILE:check_mixture>)
set_tests_properties(model/check_mixture PROPERTIES LABELS data TIMEOUT 600)
# The flagship's layer at its full size, 5 GB of random weights.
add_executable(check_full_layer ${CMAKE_SOURCE_DIR}/tests/model/check_full_layer.c)
target_include_directories(check_full_layer PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(check_full_layer PRIVATE shoal_model)
configure_file(${CMAKE_SOURCE_DIR}/tests/data/configs/Qwen--Qwen3-235B-A22B_config.json ${CMAKE_CURRENT_BINARY_DIR}/qwen3-235b/config.json COPYONLY)
add_test(NAME model/check_full_layer COMMAND check_full_layer ${CMAKE_CURRENT_BINARY_DIR}/qwen3-235b)
set_tests_properties(model/check_full_layer PROPERTIES LABELS golden TIMEOUT 600)
