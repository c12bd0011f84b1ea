# The API with a fake engine behind it: its sources are compiled here, because shoal_api would bring the real one.
file(GLOB api_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/api/*.c)
set(api_here ${CMAKE_CURRENT_LIST_DIR})

# api_program(NAME SOURCES…): links everything below the API but the engine.
function(api_program name)
  add_executable(${name} ${ARGN} ${api_here}/fake_engine.c)
  target_compile_definitions(${name} PRIVATE TEST_DATA_DIR="${TEST_DATA_DIR}")
  target_include_directories(${name} PRIVATE ${api_here} ${CMAKE_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE api_with_fake_engine shoal_http shoal_text shoal_base PkgConfig::DEPS PkgConfig::CMOCKA Threads::Threads m)
endfunction()

add_library(api_with_fake_engine STATIC ${api_sources})
target_link_libraries(api_with_fake_engine PUBLIC PkgConfig::DEPS)

api_program(fake_server ${api_here}/fake_server.c)
api_program(check_api ${api_here}/check_api.c ${api_here}/fake_http.c)
add_test(NAME api/check_api COMMAND check_api)
set_tests_properties(api/check_api PROPERTIES LABELS "unit;threads" TIMEOUT 300)

find_program(PYTHON3 python3 REQUIRED)
add_test(NAME api/replay_golden COMMAND ${PYTHON3} ${api_here}/replay_golden.py $<TARGET_FILE:fake_server> ${TEST_DATA_DIR}/golden/vllm)
set_tests_properties(api/replay_golden PROPERTIES LABELS "unit;threads" TIMEOUT 300)

if(SHOAL_FUZZ)
  api_program(fuzz_api_request ${api_here}/fuzz_api_request.c ${api_here}/fake_http.c)
  target_link_options(fuzz_api_request PRIVATE -fsanitize=fuzzer)
else()
  api_program(fuzz_api_request ${api_here}/fuzz_api_request.c ${api_here}/fake_http.c ${CMAKE_SOURCE_DIR}/tests/fuzz/replay.c)
endif()
add_test(NAME fuzz/fuzz_api_request COMMAND fuzz_api_request ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/api_request)
set_tests_properties(fuzz/fuzz_api_request PROPERTIES LABELS unit TIMEOUT 120)

add_test(NAME api/restless_clients COMMAND ${PYTHON3} ${api_here}/restless_clients.py $<TARGET_FILE:fake_server>)
set_tests_properties(api/restless_clients PROPERTIES LABELS "unit;threads" TIMEOUT 300)
