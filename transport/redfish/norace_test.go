//go:build !race

package redfish_test

const raceEnabled = false
