package sum_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/internal/journal"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// records are those of all runs of a journal, in the order in which they were written.
func records(t *testing.T, dir string) []journal.Record {
	t.Helper()
	runs, err := journal.Runs(dir)
	require.NoError(t, err)
	var out []journal.Record
	for _, run := range runs {
		for r, err := range journal.Read(run) {
			require.NoError(t, err)
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b journal.Record) int { return a.Time.Compare(b.Time) })
	return out
}

// alwaysKnown checks that a manager that is killed behind any record of a journal
// leaves to the next one what became of an attempt: its record is open, or its outcome
// is noted. It returns how many attempts there were.
func alwaysKnown(t *testing.T, all []journal.Record) int {
	t.Helper()
	began, noted := map[string]bool{}, 0
	open := map[string]bool{}
	for i, r := range all {
		attempt := r.Kind == "job" || r.Kind == "update"
		switch {
		case attempt && r.Op == journal.OpOpened:
			began[r.ID], open[r.ID] = true, true
		case attempt && r.Op == journal.OpClosed:
			delete(open, r.ID)
		case r.Kind == "outcome":
			noted++
		}
		require.GreaterOrEqual(t, len(open)+noted, len(began), "killed behind record %d of %d, %s %s: %v", i+1, len(all), r.Kind, r.Op, slices.Collect(maps.Keys(began)))
	}
	return len(began)
}

// TestOutcomeIsNotedBeforeTheRecordCloses: SIGKILL between any two records loses no
// outcome, of a deployment or of its recovery.
func TestOutcomeIsNotedBeforeTheRecordCloses(t *testing.T) {
	for _, personality := range []string{server, push, pull} {
		for _, how := range []string{"deployed", "refused", "recovered"} {
			t.Run(fmt.Sprint(personality, "/", how), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, personality)
				c := l.component("7.0", 100_000)
				s := l.open()
				n := l.nodes(s)[0]
				p := plan(t, n, c, sum.PlanOptions{})
				if how == "recovered" {
					l.begin(n, p, c, transporttest.Flash{}).die(s)
					s = l.open()
					rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{}, c)
					require.NoError(t, err)
					require.Equal(t, sum.Updated, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
					require.Equal(t, 1, alwaysKnown(t, records(t, l.journal)))
					l.clean(s)
					return
				}
				if how == "refused" && personality == server {
					l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: agenttest.Install, Err: transport.ErrRejected})
				} else if how == "refused" {
					l.at[n.Target().Name].Inject(transporttest.Fault{Op: "update.upload", Err: transport.ErrRejected})
				}
				_, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
				require.NoError(t, err)
				require.Equal(t, 1, alwaysKnown(t, records(t, l.journal)))
				l.clean(s)
			})
		}
	}
}
