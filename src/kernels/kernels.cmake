# Adds the files of each instruction set to `sources`, each with the compiler flags of its own set: no other file may
# use an instruction that a CPU might lack.
# Its loops become vectors only when a comparison may be turned into arithmetic.
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/kernels/encode.c PROPERTIES COMPILE_FLAGS -fno-trapping-math)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(kernels_x86 ${CMAKE_SOURCE_DIR}/src/kernels/x86)
  list(APPEND sources ${kernels_x86}/cpu.c)
  file(GLOB kernels_avx2 CONFIGURE_DEPENDS ${kernels_x86}/*_avx2.c)
  file(GLOB kernels_avx512 CONFIGURE_DEPENDS ${kernels_x86}/*_avx512.c)
  file(GLOB kernels_avx512_vnni CONFIGURE_DEPENDS ${kernels_x86}/*_avx512_vnni.c)
  file(GLOB kernels_avx512_bf16 CONFIGURE_DEPENDS ${kernels_x86}/*_avx512_bf16.c)
  set(flags_avx2 "-mavx2 -mfma -mf16c")
  if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    # GCC turns chains of integer additions into trees, keeps all products alive for them and spills: half the speed.
    string(APPEND flags_avx2 " -fno-tree-reassoc -fno-tree-ter")
  endif()
  if(SHOAL_SANITIZE OR CMAKE_BUILD_TYPE STREQUAL "Debug")
    # Shift counts must become constants, so not -O0; and with sanitizers -O3 takes minutes for the inlined copies.
    string(APPEND flags_avx2 " -O1")
  endif()
  set(flags_avx512 "${flags_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512")
  set_source_files_properties(${kernels_avx2} PROPERTIES COMPILE_FLAGS "${flags_avx2}")
  set_source_files_properties(${kernels_avx512} PROPERTIES COMPILE_FLAGS "${flags_avx512}")
  set_source_files_properties(${kernels_avx512_vnni} PROPERTIES COMPILE_FLAGS "${flags_avx512} -mavx512vnni")
  set_source_files_properties(${kernels_avx512_bf16} PROPERTIES COMPILE_FLAGS "${flags_avx512} -mavx512bf16")
  list(APPEND sources ${kernels_avx2} ${kernels_avx512} ${kernels_avx512_vnni} ${kernels_avx512_bf16})
endif()
