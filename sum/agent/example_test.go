package agent_test

import (
	"fmt"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// The same exit status means different things to different installers.
func ExampleProfile_Judge() {
	exit := transport.Exit{Code: 1}
	for _, p := range []agent.Profile{agent.ProfileDeb, agent.ProfileHPELinux} {
		r := p.Judge(exit)
		fmt.Println(p, r.Verdict, r.Activation, r.Code)
	}
	// Output:
	// deb failed  dpkg 1
	// hpe-linux staged reboot hpe-linux 1
}
