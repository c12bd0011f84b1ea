/* Which build of shoal this is: drivers and workers must be the same. */
#ifndef CMD_BUILD_ID_H
#define CMD_BUILD_ID_H

/* "0.1.0+3f2a90c4d1e5": version and the linker's build id of this executable. Static storage; call it first from one thread. */
const char *cmd_build_id(void);

#endif
