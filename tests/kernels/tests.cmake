# The kernel tests share check.c.
set(kernels_tests ${CMAKE_CURRENT_SOURCE_DIR}/kernels)
foreach(name test_kernels_matmul test_kernels_vector test_kernels_attention test_kernels_blocks)
  target_sources(${name} PRIVATE ${kernels_tests}/check.c)
endforeach()

# The AVX-512 files once more with SIMDe instead of intrinsics, so that they are checked on any CPU. Their fill functions
# get other names, because the library already holds the real ones.
file(GLOB kernels_avx512 CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/x86/*_avx512*.c)
foreach(name test_kernels_matmul test_kernels_attention)
  add_executable(${name}_simde ${kernels_tests}/${name}.c ${kernels_tests}/check.c ${kernels_tests}/check_simde.c ${kernels_avx512})
  target_compile_definitions(${name}_simde PRIVATE CHECK_SIMDE KERNELS_SIMDE
    kernels_x86_fill_matmul_float_avx512=check_fill_matmul_float_avx512
    kernels_x86_fill_matmul_block_avx512=check_fill_matmul_block_avx512
    kernels_x86_fill_attention_avx512=check_fill_attention_avx512
    kernels_x86_fill_matmul_block_avx512_vnni=check_fill_matmul_block_avx512_vnni
    kernels_x86_fill_matmul_bf16_avx512_bf16=check_fill_matmul_bf16_avx512_bf16)
  target_compile_options(${name}_simde PRIVATE -Wno-psabi)
  target_include_directories(${name}_simde PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(${name}_simde PRIVATE shoal_kernels PkgConfig::CMOCKA)
  add_test(NAME kernels/${name}_simde COMMAND ${name}_simde)
  set_tests_properties(kernels/${name}_simde PROPERTIES LABELS unit TIMEOUT 300)
endforeach()
