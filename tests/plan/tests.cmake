# Plans against launches: all that a launch below the engine needs.
add_executable(check_ranks ${CMAKE_SOURCE_DIR}/tests/plan/check_ranks.c)
target_compile_definitions(check_ranks PRIVATE TEST_DATA_DIR="${TEST_DATA_DIR}")
target_include_directories(check_ranks PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(check_ranks PRIVATE shoal_exec PkgConfig::CMOCKA)
add_test(NAME plan/check_ranks COMMAND check_ranks)
set_tests_properties(plan/check_ranks PROPERTIES LABELS unit TIMEOUT 300)
