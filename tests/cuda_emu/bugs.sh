#!/usr/bin/env bash
# bugs.sh PROGRAM plain|asan|tsan: every mistake of bugs.cu that this way of running can notice is noticed, and the kernel without one passes.
program=$1
failed=0
export ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1

# try NOTICED|PASSES BUG [VARIABLE=VALUE]
try() {
    local want=$1 bug=$2 said
    shift 2
    said=$(env "$@" "$program" "$bug" 2>&1)
    local code=$?
    if { [ "$want" = noticed ] && [ $code -eq 0 ]; } || { [ "$want" = passes ] && [ $code -ne 0 ]; }; then
        echo "bug $bug ($*): exit $code, but it should be that it is $want" >&2
        echo "$said" | head -n 20 >&2
        failed=1
    fi
}

case $2 in
plain) bugs="1 2 3 7 8 15 16 18 19 24" ;;
asan) bugs="1 2 3 4 5 6 7 8 11 15 16 18 19 24" ;;
tsan) bugs="1 2 3 7 8 9 10 14 15 16 17 18 19 23 24" ;;
esac
for bug in $bugs; do try noticed "$bug" A=1; done
for order in fwd rev rand:1 rand:2; do try passes 0 CUDA_EMU_ORDER=$order; done
try passes 0 CUDA_EMU_DEFER=1
try passes 20 CUDA_EMU_DEFER=1
try noticed 21 CUDA_EMU_DEFER=1
try noticed 22 CUDA_EMU_DEFER=1
if [ "$2" = plain ]; then
    try noticed 1 CUDA_EMU_ORDER=rev
    try noticed 10 CUDA_EMU_ORDER=fwd
    try noticed 12 CUDA_EMU_PROTECT=1
    try noticed 13 CUDA_EMU_DEFER=1
    try passes 0 CUDA_EMU_PROTECT=1
fi
exit $failed
