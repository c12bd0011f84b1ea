#!/bin/sh
# Stands in for Ascend's hccn_tool and npu-smi: prints what tests/data/hccn has for a question.
#   hccn_standin.sh -i NPU -CHECK -g [address A]      hccn_standin.sh info
# $HCCN_NET: first three bytes of the NPUs' addresses. $HCCN_FAULTS: words NPU:CHECK=FILE, NPU:CHECK=FILE:STATUS or NPU:CHECK=HANG;
# NPU may be '*'. A hang leaves a child that does not die of its parent's end; its number goes to $HCCN_HANG_PID, if set.
data=$(dirname "$0")/../data/hccn
[ "$1" = info ] && exec cat "$data/${HCCN_SMI:-npu-smi.txt}"
npu=$2 check=${3#-} file=${3#-}.txt status=0
for fault in $HCCN_FAULTS; do
    case $fault in
        "$npu:$check="* | "*:$check="*)
            file=${fault#*=}
            case $file in *:*) status=${file#*:} file=${file%%:*} ;; esac
            ;;
    esac
done
if [ "$file" = HANG ]; then
    sleep 1000 &
    [ -n "$HCCN_HANG_PID" ] && echo $! >"$HCCN_HANG_PID"
    wait
fi
LC_ALL=C sed "s/@A@/${HCCN_NET:-11.12.165}/; s/@I@/$npu/; s/@P@/$6/" "$data/$file"
exit "$status"
