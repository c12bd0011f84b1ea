# Downloads, against a stand-in hub.
add_executable(hub_resolve ${CMAKE_SOURCE_DIR}/tests/weights/hub_resolve.c)
target_link_libraries(hub_resolve PRIVATE shoal_weights)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME weights/hub COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/weights/test_hub.py $<TARGET_FILE:hub_resolve>)
set_tests_properties(weights/hub PROPERTIES LABELS unit TIMEOUT 300)

# A real model, 98 MB, fetched once into the build folder by the script that `make run` uses too.
add_executable(check_real_gguf ${CMAKE_SOURCE_DIR}/tests/weights/check_real_gguf.c)
target_link_libraries(check_real_gguf PRIVATE shoal_weights)
add_test(NAME weights/real_gguf
         COMMAND sh -c "model=$(${CMAKE_SOURCE_DIR}/scripts/fetch-model.sh ${CMAKE_BINARY_DIR}/models) && exec $<TARGET_FILE:check_real_gguf> \"$model\"")
set_tests_properties(weights/real_gguf PROPERTIES LABELS data TIMEOUT 600)
