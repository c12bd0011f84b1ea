# OpenAI's own Python client against the API over the fake engine. scripts/venv.sh makes the environment once.
set(CLIENTS_VENV ${CMAKE_SOURCE_DIR}/build/venv-openai CACHE PATH "virtual environment with openai")
add_test(NAME clients/venv COMMAND ${CMAKE_SOURCE_DIR}/scripts/venv.sh ${CLIENTS_VENV} openai==3.54.0)
add_test(NAME clients/openai
         COMMAND ${CLIENTS_VENV}/bin/python ${CMAKE_CURRENT_LIST_DIR}/run.py --fake-server $<TARGET_FILE:fake_server>)
add_test(NAME clients/openai_serve
         COMMAND ${CLIENTS_VENV}/bin/python ${CMAKE_CURRENT_LIST_DIR}/run.py --serve $<TARGET_FILE:shoal> ${TEST_DATA_DIR}/models/tiny-qwen3)
set_tests_properties(clients/venv PROPERTIES LABELS clients TIMEOUT 600 FIXTURES_SETUP openai_venv)
set_tests_properties(clients/openai clients/openai_serve PROPERTIES LABELS clients TIMEOUT 300 FIXTURES_REQUIRED openai_venv)
