/*
 * The program `ray` on this machine: where it is, and its installation from PyPI. Main thread. Blocks.
 */
#ifndef NODE_RAY_H
#define NODE_RAY_H

#include <limits.h>
#include <stdbool.h>

#include "base/err.h"

/*
 * In venv (a virtual environment; NULL: $SHOAL_RAY_VENV), else on PATH, else in ~/.local/share/shoal/ray. ERR_NOT_FOUND says where it was looked
 * for and how to get it; a venv that is named and has none is never passed over.
 */
int node_ray_find(const char *venv, char ret_path[PATH_MAX], struct err *err);
/*
 * Puts ray[default] of that version into venv (NULL: $SHOAL_RAY_VENV, else ~/.local/share/shoal/ray) with python3 and pip, whose output is shown; at
 * most 15 minutes. Nothing is done when that version is there already. All nodes of a cluster need the same version.
 */
int node_ray_install(const char *venv, const char *version, bool (*is_cancelled)(void), char ret_path[PATH_MAX], struct err *err);

#endif
