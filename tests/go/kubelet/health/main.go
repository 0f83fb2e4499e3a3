// health answers gRPC's health checks on port 9000: what a gRPC probe asks.
package main

import (
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	protocol "google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	listener, err := net.Listen("tcp", ":9000")
	if err == nil {
		server := grpc.NewServer()
		protocol.RegisterHealthServer(server, health.NewServer())
		err = server.Serve(listener)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
