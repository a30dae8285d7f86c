//go:build !linux

package smbtest

import (
	"errors"
	"fmt"
)

type smbd struct{ addr string }

func startSMBD(Config, string) (*smbd, error) {
	return nil, fmt.Errorf("smbtest: smbd is run on Linux only: %w", errors.ErrUnsupported)
}

func (*smbd) stop() error { return nil }

func (*smbd) pin(string) (func() error, error) { return nil, errors.ErrUnsupported }

func execute(string) (func() error, error) { return nil, errors.ErrUnsupported }
