# Downloads, against a stand-in hub.
add_executable(hub_resolve ${CMAKE_SOURCE_DIR}/tests/weights/hub_resolve.c)
target_link_libraries(hub_resolve PRIVATE shoal_weights)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME weights/hub COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/weights/test_hub.py $<TARGET_FILE:hub_resolve>)
set_tests_properties(weights/hub PROPERTIES LABELS unit TIMEOUT 300)
