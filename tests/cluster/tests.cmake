# A driver without a model, for tests/nodes.
add_executable(cluster_probe ${CMAKE_CURRENT_LIST_DIR}/probe.c)
target_include_directories(cluster_probe PRIVATE ${CMAKE_CURRENT_LIST_DIR}/..)
target_link_libraries(cluster_probe PRIVATE shoal_cluster)
add_test(NAME cluster/test_ray_standin COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/test_ray_standin.py $<TARGET_FILE:cluster_probe>)
set_tests_properties(cluster/test_ray_standin PROPERTIES LABELS unit TIMEOUT 300)
