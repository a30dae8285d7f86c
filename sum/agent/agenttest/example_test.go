package agenttest_test

import (
	"context"
	"fmt"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport"
)

// A pipeline is given the fake as its agent.Installer; then the test looks at
// what became of the host.
func Example() {
	fake := &agenttest.Installer{Detached: true}
	host := fake.Host("db1")
	host.SetSoftware(transport.Software{Name: "hello", Version: "2.9", Source: "dpkg"})
	host.OnInstall("hello", agenttest.Job{Log: []string{"Unpacking hello\n"}})

	if err := pipeline(context.Background(), fake); err != nil {
		fmt.Println(err)
	}
	fmt.Println("version", host.Version("hello"), "after", host.Runs("hello"), "run")
	fmt.Println("problems:", fake.Check())
	// Output:
	// Unpacking hello
	// version 2.10 after 1 run
	// problems: <nil>
}

func pipeline(ctx context.Context, installer agent.Installer) error {
	var conn transport.Conn = &wire{}
	a, err := installer.Start(ctx, conn, agent.StartOptions{Target: "db1", ID: "demo"})
	if err != nil {
		return err
	}
	defer a.Close(ctx)
	deb := transport.BytesFile("hello.deb", []byte("..."))
	if _, err := a.Stage(ctx, deb, nil); err != nil {
		return err
	}
	job := agent.Job{
		ID: "00000000000000000000000000000001", Component: "hello", Version: "2.10", Profile: agent.ProfileDeb,
		Files: []agent.JobFile{{Name: deb.Name, SHA256: deb.Digest(), Size: deb.Size}},
		Argv:  []string{"dpkg", "-i", "{dir}/hello.deb"},
	}
	status, err := a.Install(ctx, job)
	for err == nil {
		if status, err = a.Status(ctx, job.ID, status.NextLog); err == nil {
			fmt.Print(string(status.Log))
			if status.State.Final() && len(status.Log) == 0 {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	_, err = a.Remove(ctx)
	return err
}
