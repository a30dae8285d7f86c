//go:build unix && !linux

package portalloc

func privilegedBelow() int { return 1024 }

func reservedPorts() []Range { return nil }

func ephemeralPorts() (Range, bool) { return Range{}, false }
