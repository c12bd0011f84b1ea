# A driver without a model, for tests/nodes.
add_executable(cluster_probe ${CMAKE_CURRENT_LIST_DIR}/probe.c)
target_include_directories(cluster_probe PRIVATE ${CMAKE_CURRENT_LIST_DIR}/..)
target_link_libraries(cluster_probe PRIVATE shoal_cluster)
