#include "cluster/launch.h"
static int ray_place(struct cluster *cluster, struct err *err) { (void)cluster; return err_set(err, ERR_UNSUPPORTED, "placement by Ray is not built in"); }
static void ray_stop(struct cluster *cluster, int grace_ms) { (void)cluster; (void)grace_ms; }
const struct launch_ops launch_ray_ops = {.place = ray_place, .stop = ray_stop};
