# Real processes on hosts made of namespaces. Needs root, and Ray in a virtual environment (scripts/venv.sh); neither is skipped when missing.
set(NODES_VENV ${CMAKE_SOURCE_DIR}/build/venv-ray CACHE PATH "virtual environment with ray[default]")
add_test(NAME nodes/test_hosts COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/test_hosts.py)
set_tests_properties(nodes/test_hosts PROPERTIES LABELS nodes TIMEOUT 120)
if(TARGET shoal)
  add_test(NAME nodes/test_ray COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/test_ray.py $<TARGET_FILE:shoal> ${NODES_VENV})
  set_tests_properties(nodes/test_ray PROPERTIES LABELS nodes TIMEOUT 600 RUN_SERIAL TRUE)
endif()
