//go:build !linux

package agent

import "errors"

func getLabel(string) (string, error) { return "", errors.ErrUnsupported }
func setLabel(string, string) error   { return errors.ErrUnsupported }
