# The kernel tests share check.c.
foreach(name test_kernels_matmul test_kernels_vector test_kernels_attention)
  target_sources(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/kernels/check.c)
endforeach()
