# The three benches as they are run, against a real server and against one that misbehaves.
if(TARGET shoal)
  find_program(PYTHON3 python3 REQUIRED)
  add_test(NAME bench/commands COMMAND ${PYTHON3} ${CMAKE_CURRENT_LIST_DIR}/run_commands.py $<TARGET_FILE:shoal> ${TEST_DATA_DIR}/models/tiny-qwen3)
  set_tests_properties(bench/commands PROPERTIES LABELS unit TIMEOUT 300)
endif()
