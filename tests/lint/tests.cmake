find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME lint/layers COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/lint/check_layers.py ${CMAKE_SOURCE_DIR}/src)
set_tests_properties(lint/layers PROPERTIES LABELS unit)
