package redfish

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const postedEvent = `{"@odata.type":"#Event.v1_7_0.Event","Context":%q,"Events":[{"EventType":"StatusChange","MessageId":"TaskEvent.1.0.TaskStarted","Message":"Update","MessageArgs":["1"]},` +
	`{"MessageId":"TaskEvent.1.0.TaskProgressChanged","Message":"Update","MessageArgs":["1","40"]},` +
	`{"MessageId":"ResourceEvent.1.0.ResourceChanged","Message":"One or more resource properties have changed."}]}`

func FuzzEvents(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(postedEvent, "mine")))
	f.Add([]byte(fmt.Sprintf(postedEvent, "another")))
	f.Add([]byte(`{"Events":[{"MessageId":1,"MessageArgs":"one","Message":null}]}`))
	f.Add([]byte(`{"Events":[null,{}],"Context":{"a":1}}`))
	f.Add([]byte(strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		told, ok := readEvents(data, "mine")
		require.LessOrEqual(t, len(told), maxEvents)
		for _, s := range told {
			require.True(t, ok)
			require.LessOrEqual(t, len(s), 1024+3)
			require.True(t, utf8.ValidString(s))
		}
		if checkDepth(data) != nil {
			require.False(t, ok)
		}
	})
}

func TestReadEvents(t *testing.T) {
	many := `{"Events":[` + strings.Repeat(`{"MessageId":"Alert.1.0.X"},`, maxEvents) + `{"MessageId":"Alert.1.0.X"}]}`
	for _, c := range []struct {
		body string
		ok   bool
		told int
	}{
		{fmt.Sprintf(postedEvent, "mine"), true, 1},
		{fmt.Sprintf(postedEvent, ""), true, 1}, // not every service says
		{fmt.Sprintf(postedEvent, "another"), false, 0},
		{many, true, maxEvents},
		{`{"Context":"mine"}`, false, 0},
		{`{"Context":"mine","Events":[]}`, false, 0},
		{`[[[[`, false, 0},
		{``, false, 0},
		{`{"Context":"mine","Events":` + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + `}`, false, 0},
		{`{"Context":"mine","Events":[{"MessageId":"` + strings.Repeat("x", maxEvent) + `"}]}`, false, 0},
		{`{"Context":"mine","Events":[{"MessageId":"` + strings.Repeat("x", 5000) + `"}]}`, true, 1},
	} {
		told, ok := readEvents([]byte(c.body), "mine")
		require.Equal(t, c.ok, ok, "%.200s", c.body)
		require.Len(t, told, c.told, "%.200s", c.body)
		for _, s := range told {
			require.LessOrEqual(t, len(s), 1024+3)
		}
	}
}

// A post that is long, or of another, does not have the driver look.
func TestTakePosts(t *testing.T) {
	s := &subscription{u: &update{wake: make(chan struct{}, 1)}, mark: "mine"}
	for _, body := range []string{"", "{", fmt.Sprintf(postedEvent, "another"), strings.Repeat(" ", maxEvent) + fmt.Sprintf(postedEvent, "mine")} {
		require.NoError(t, s.take(t.Context(), strings.NewReader(body)))
		require.Empty(t, s.u.wake)
	}
	for range 3 {
		require.NoError(t, s.take(t.Context(), strings.NewReader(fmt.Sprintf(postedEvent, "mine"))))
	}
	require.Len(t, s.u.wake, 1)
	require.Len(t, s.texts, 1, "each is told once")
}
