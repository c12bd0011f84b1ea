/* The commands of the program, one file each. Each returns the exit status. */
#ifndef CMD_COMMANDS_H
#define CMD_COMMANDS_H

/* argv[0] is the first argument behind the command's name. */
int cmd_serve(int argc, char **argv);
int cmd_worker(int argc, char **argv);
int cmd_node(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_verify_agent(int argc, char **argv);
int cmd_plan(int argc, char **argv);

/* Exit statuses, besides 0: wrong use of the command line, and everything else that stops a command. */
enum { CMD_EXIT_FAILURE = 1, CMD_EXIT_USAGE = 2 };

#endif
