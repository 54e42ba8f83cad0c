package steer

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -target bpfel -type reason -type counter -type flow -type flow6 -type end -type port_key -type port -type owner_key -type owner -type slot -type state steer steer.bpf.c -- -O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
