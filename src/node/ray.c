/* Finding and installing Ray; see ray.h. */
#include "node/ray.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "node/process.h"

enum { VENV_TIMEOUT_MS = 120000, INSTALL_TIMEOUT_MS = 900000, VERSION_TIMEOUT_MS = 60000, VERSION_BYTES = 40 };

static bool is_program(const char *path) { return access(path, X_OK) == 0 && !file_is_dir(path); }

static int join(char ret_path[PATH_MAX], const char *dir, const char *name, struct err *err) {
    int n = snprintf(ret_path, PATH_MAX, "%s/%s", dir, name);
    return n > 0 && n < PATH_MAX ? 0 : err_set(err, ERR_INVALID, "the path %.100s… is too long", dir);
}

static const char *named_venv(const char *venv) {
    if (venv == NULL)
        venv = getenv("SHOAL_RAY_VENV");
    return venv != NULL && venv[0] != '\0' ? venv : NULL;
}

static int default_venv(char ret_dir[PATH_MAX], struct err *err) {
    const char *home = getenv("HOME");
    if (home == NULL || home[0] == '\0')
        return err_set(err, ERR_INVALID, "HOME is not set, so that Ray needs a folder: --ray-venv DIR");
    return join(ret_dir, home, ".local/share/shoal/ray", err);
}

static bool find_on_path(char ret_path[PATH_MAX]) {
    const char *path = getenv("PATH");
    for (const char *at = path; at != NULL && *at != '\0';) {
        int len = (int)strcspn(at, ":");
        int n = snprintf(ret_path, PATH_MAX, "%.*s/ray", len, at);
        if (len > 0 && n < PATH_MAX && is_program(ret_path))
            return true;
        at += len + (at[len] == ':');
    }
    return false;
}

int node_ray_find(const char *venv, char ret_path[PATH_MAX], struct err *err) {
    const char *named = named_venv(venv);
    char path[PATH_MAX], dir[PATH_MAX];
    if (named != NULL) {
        if (join(path, named, "bin/ray", err) != 0)
            return -1;
        if (!is_program(path))
            return err_set(err, ERR_NOT_FOUND, "no Ray in %s (no %s); --install-ray puts it there", named, path);
    } else if (!find_on_path(path)) {
        if (default_venv(dir, err) != 0 || join(path, dir, "bin/ray", err) != 0)
            return -1;
        if (!is_program(path))
            return err_set(err, ERR_NOT_FOUND,
                           "Ray is neither on PATH nor in %s; --install-ray puts it there from PyPI, --ray-venv DIR names where it is", dir);
    }
    memcpy(ret_path, path, PATH_MAX);
    return 0;
}

/* "ray, version 2.60.0" → "2.60.0" */
static bool has_version(const char *ray, const char *version, bool (*is_cancelled)(void)) {
    char *argv[] = {(char *)ray, (char *)"--version", NULL};
    struct node_process process = {.argv = argv, .timeout_ms = VERSION_TIMEOUT_MS, .is_cancelled = is_cancelled};
    struct buf output = {0};
    struct err ignored;
    char found[VERSION_BYTES + 1] = "";
    bool is_same = is_program(ray) && node_process_run(&process, &output, &ignored) == 0 &&
                   sscanf(buf_str(&output), "ray, version %40s", found) == 1 && strcmp(found, version) == 0;
    buf_finish(&output);
    return is_same;
}

int node_ray_install(const char *venv, const char *version, bool (*is_cancelled)(void), char ret_path[PATH_MAX], struct err *err) {
    char dir[PATH_MAX], ray[PATH_MAX], python[PATH_MAX], package[64];
    const char *named = named_venv(venv);
    if (named != NULL ? join(dir, named, ".", err) != 0 : default_venv(dir, err) != 0)
        return -1;
    if (join(ray, dir, "bin/ray", err) != 0 || join(python, dir, "bin/python", err) != 0)
        return -1;
    if (strlen(version) > VERSION_BYTES || version[strspn(version, "0123456789.abrcpost")] != '\0')
        return err_set(err, ERR_INVALID, "--ray-version %.60s is no version such as 2.60.0", version);
    snprintf(package, sizeof package, "ray[default]==%s", version);
    if (!has_version(ray, version, is_cancelled)) {
        char *make_venv[] = {(char *)"python3", (char *)"-m", (char *)"venv", dir, NULL};
        char *install[] = {python, (char *)"-m", (char *)"pip", (char *)"install", (char *)"--disable-pip-version-check", package, NULL};
        struct node_process process = {.argv = make_venv, .timeout_ms = VENV_TIMEOUT_MS, .is_cancelled = is_cancelled};
        log_info("Installing %s into %s", package, dir);
        if (!is_program(python) && node_process_run(&process, NULL, err) != 0)
            return err_wrap(err, "python3 cannot make the virtual environment %s (Debian: apt-get install python3 python3-venv)", dir);
        process = (struct node_process){.argv = install, .timeout_ms = INSTALL_TIMEOUT_MS, .is_shown = true, .is_cancelled = is_cancelled};
        if (node_process_run(&process, NULL, err) != 0)
            return err_wrap(err, "pip cannot install %s into %s (its own words are above)", package, dir);
        if (!is_program(ray))
            return err_set(err, ERR_NOT_FOUND, "pip has installed %s, but there is no %s", package, ray);
    }
    memcpy(ret_path, ray, PATH_MAX);
    return 0;
}
