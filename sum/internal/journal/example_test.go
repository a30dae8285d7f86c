package journal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roundsman-go/roundsman/sum/internal/journal"
)

// A run that ended without retiring is found, finished and retired.
func Example() {
	ctx := context.Background()
	tmp, err := os.MkdirTemp("", "journal-example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "journal")

	crashed, err := journal.Open(dir, journal.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = crashed.Append(ctx, journal.Opened("firewall.rule", "web1", "rule-1", json.RawMessage(`{"port":63001}`)))
	_ = crashed.Append(ctx, journal.Opened("agent", "web1", "7", nil))
	_ = crashed.Append(ctx, journal.Closed("agent", "web1", "7"))
	_ = crashed.Close(ctx) // as the kernel does after kill -9

	runs, err := journal.Runs(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, run := range runs {
		fmt.Println("run is", run.State)
		j, err := journal.Adopt(ctx, run, journal.Options{})
		if err != nil {
			fmt.Println(err)
			continue
		}
		left, err := run.Open()
		if err != nil {
			fmt.Println(err)
		}
		for _, r := range left {
			fmt.Println("give back", r.Kind, r.ID, "on", r.Target, string(r.Data))
			_ = j.Append(ctx, journal.Closed(r.Kind, r.Target, r.ID))
		}
		fmt.Println("retired:", j.Retire(ctx) == nil)
	}
	// Output:
	// run is dead
	// give back firewall.rule rule-1 on web1 {"port":63001}
	// retired: true
}
