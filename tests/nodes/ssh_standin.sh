#!/bin/sh
# Stands in for ssh in tests: ssh_standin.sh PREFIX [-o OPTION]… [USER@]hostN COMMAND. Runs COMMAND in the network of host N, whose
# namespace is PREFIX-N, and in that host's name and scratch folder where $SSH_STANDIN_PIDS has "N:PID". hostX, as a real ssh would, fails.
prefix=$1
shift
while [ "$1" = -o ]; do shift 2; done
host=${1#*@}
number=${host#host}
shift
case $number in
    *[!0-9]* | '')
        echo "ssh: Could not resolve hostname $host: Name or service not known" >&2
        exit 255
        ;;
esac
for entry in $SSH_STANDIN_PIDS; do
    [ "${entry%%:*}" = "$number" ] && exec nsenter -t "${entry#*:}" -m -u -n -p -i -- sh -c "$*"
done
exec nsenter --net="/run/netns/$prefix-$number" -- sh -c "$*"
