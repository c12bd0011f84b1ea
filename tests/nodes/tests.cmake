# Real processes on hosts made of namespaces. They need root, and Ray from PyPI, which is installed once into build/venv-ray;
# neither is skipped when missing.
set(NODES_VENV ${CMAKE_SOURCE_DIR}/build/venv-ray CACHE PATH "virtual environment with ray[default], made by the tests")
add_test(NAME nodes/test_hosts COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/test_hosts.py)
set_tests_properties(nodes/test_hosts PROPERTIES LABELS nodes TIMEOUT 120)
if(TARGET shoal)
  add_test(NAME nodes/venv_ray COMMAND bash ${CMAKE_SOURCE_DIR}/scripts/venv.sh ${NODES_VENV} ray[default]==2.60.0)
  set_tests_properties(nodes/venv_ray PROPERTIES LABELS nodes TIMEOUT 900 FIXTURES_SETUP nodes_ray)
  add_test(NAME nodes/test_ray COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/test_ray.py $<TARGET_FILE:shoal> ${NODES_VENV})
  set_tests_properties(nodes/test_ray PROPERTIES LABELS nodes TIMEOUT 600 RUN_SERIAL TRUE FIXTURES_REQUIRED nodes_ray)
  add_test(NAME nodes/test_node COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/test_node.py $<TARGET_FILE:shoal> ${NODES_VENV})
  set_tests_properties(nodes/test_node PROPERTIES LABELS nodes TIMEOUT 400 RUN_SERIAL TRUE FIXTURES_REQUIRED nodes_ray)
endif()
