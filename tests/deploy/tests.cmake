# The container image is built and run with buildah, as root; no registry is asked.
if(TARGET shoal AND NOT SHOAL_SANITIZE)
  add_test(NAME deploy/test_image COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/test_image.py $<TARGET_FILE:shoal>)
  set_tests_properties(deploy/test_image PROPERTIES LABELS container TIMEOUT 300 RUN_SERIAL TRUE)
endif()
