package fleet_test

import (
	"fmt"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
)

func ExampleParse() {
	file, err := fleet.Parse("fleet.yaml", []byte(`
defaults: {kind: linux, user: root}
targets:
  - name: db1
    address: db1.example.com:2222
  - url: linux://ops@web1
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, t := range file.Targets {
		fmt.Println(t)
	}
	_, err = fleet.Parse("fleet.yaml", []byte("targets:\n  - url: linux://db1\n    password: secret\n"))
	fmt.Println(err)
	// Output:
	// linux://root@db1.example.com:2222
	// linux://ops@web1
	// fleet.yaml:3: invalid input: field "password": a password does not belong in a fleet file; name a file that has it (password_file), or give it in the environment or at the prompt
}
