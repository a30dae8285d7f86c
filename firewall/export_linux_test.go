package firewall

// For tests in other processes.
var System = system
