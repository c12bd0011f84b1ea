/* Resolves one model name as `shoal serve` does: prints the path, or "CODE: message" and exits with 1. */
#include <limits.h>
#include <stdio.h>

#include "weights/hub.h"

int main(int argc, char **argv) {
    char path[PATH_MAX];
    struct err err = {0};
    if (argc < 2) {
        fprintf(stderr, "usage: hub_resolve MODEL [REVISION [DOWNLOAD_DIR]]\n");
        return 2;
    }
    if (weights_hub_resolve(argv[1], argc > 2 && *argv[2] ? argv[2] : NULL, argc > 3 ? argv[3] : NULL, path, &err) != 0) {
        printf("%s: %s\n", err_code_name(err.code), err.msg);
        return 1;
    }
    printf("%s\n", path);
    return 0;
}
