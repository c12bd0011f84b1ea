add_executable(kernels_bench ${CMAKE_CURRENT_SOURCE_DIR}/kernels_bench.c)
target_link_libraries(kernels_bench PRIVATE shoal_kernels)
