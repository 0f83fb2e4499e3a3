#!/bin/sh
# A CNI plugin that behaves as its name says. It is run through links, and notes what it was asked beside them.
me=${0##*/}
here=${0%/*}
input=$(cat)
printf '%s' "$input" >"$here/$me-$CNI_COMMAND-$CNI_CONTAINERID.json"
note() { echo "$1 $me $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME netns=$CNI_NETNS args=$CNI_ARGS" >>"$here/log"; }
version=$(printf '%s' "$input" | grep -o '"cniVersion":"[^"]*"' | head -n 1 | cut -d '"' -f 4)
error() { echo "{\"cniVersion\":\"$version\",\"code\":$1,\"msg\":\"$2\",\"details\":\"$3\"}"; exit 1; }
result() {
  echo "{\"cniVersion\":\"$version\",\"interfaces\":[{\"name\":\"$CNI_IFNAME\",\"mac\":\"02:00:00:00:00:01\",\"sandbox\":\"$CNI_NETNS\"}],\
\"ips\":[{\"address\":\"10.9.0.2/24\",\"gateway\":\"10.9.0.1\",\"interface\":0}],\"extra\":\"$me\"}"
}

note begin
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}' && exit ;;
  STATUS) [ ! -e "$here/down" ] || error 50 "not available" "no more addresses"; exit 0 ;;
  GC) exit 0 ;;
esac
case $me-$CNI_COMMAND in
  fail-ADD) error 7 "bad config" "subnet is missing" ;;
  fails-to-go-DEL) [ -e "$here/healed" ] || error 11 "try again" "" ;;
  unknown-DEL) error 3 "no such container" "" ;;
  missing-DEL) error 999 "failed to open netns" "no such file or directory" ;;
  hang-ADD)
    sleep 1000 &
    echo $! >"$here/sleeper"
    wait ;;
  garbage-ADD) echo "this is not JSON" && exit ;;
  wrong-ADD) echo '{"cniVersion":"1.0.0","ips":[{"address":"nowhere"}]}' && exit ;;
  flood-ADD) exec head -c 10485760 /dev/zero ;;
  silent-ADD) echo "cannot go on" >&2; exit 3 ;;
  dies-ADD) printf '{"cniVersion":'; kill -9 $$ ;;
  leaves-ADD)
    sleep 1000 &
    echo $! >"$here/sleeper"
    result; exit ;;
  old-ADD) echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.8.0.2/24","gateway":"10.8.0.1"}}' && exit ;;
  gated-ADD) read -r _ <"$here/gate" ;;
  # Two pods that can only go on together.
  meets-ADD) case $CNI_CONTAINERID in a*) read -r _ <"$here/gate" ;; *) echo go >"$here/gate" ;; esac ;;
esac
[ "$CNI_COMMAND" != ADD ] || result
note end
