# Chat templates against jinja2: installed by the test.
add_executable(template_render ${CMAKE_CURRENT_LIST_DIR}/template_render.c)
target_link_libraries(template_render PRIVATE shoal_text)
add_test(NAME text/template_differential
  COMMAND ${CMAKE_CURRENT_LIST_DIR}/diff_template.sh $<TARGET_FILE:template_render> ${CMAKE_CURRENT_LIST_DIR} ${CMAKE_SOURCE_DIR}/scripts
          ${CMAKE_BINARY_DIR})
set_tests_properties(text/template_differential PROPERTIES LABELS data TIMEOUT 300)
