// Command winehelper runs under Wine, for package realtest, and only there: it gives a
// test on Linux the service control manager and the named pipes of that Wine.
//
// It listens on a free port of the loopback interface, prints the port and a token, and
// ends when its standard input does. Each connection begins with one line of JSON, a
// Request, which is answered by one, a Reply; after that of the operation "pipe" the
// connection is the pipe. As an ordinary program it keeps Wine from stopping services.
//
// With the arguments "service" and a name it is a service for tests, which echoes what
// comes on a pipe of that name.
package main

// Request is what is asked. Handles are those of the service control manager, which the
// helper keeps open until "close".
type Request struct {
	Token   string
	Op      string // create, open, close, start, stop, delete, query, list, pipe, processes, kill
	Name    string // of the service, or of the pipe
	Display string
	Command string
	Start   uint32 // its start type
	Handle  uint64 // for "kill" the number of a process
	Args    []string
}

// Reply is the answer.
type Reply struct {
	Code      uint32 // of Windows: 0 is success
	Handle    uint64
	Status    [9]uint32 // SERVICE_STATUS_PROCESS
	Names     []string  // of services
	Processes []Process
}

// Process is one that runs.
type Process struct {
	PID     uint32
	Program string
}
