add_executable(comm_bench ${CMAKE_CURRENT_SOURCE_DIR}/comm_bench.c)
target_link_libraries(comm_bench PRIVATE shoal_comm)
