//go:build unix

package local_test

import "github.com/roundsman-go/roundsman/transport/transporttest"

func platform(*transporttest.Harness) {}

func onDisk(name string) string { return name }
