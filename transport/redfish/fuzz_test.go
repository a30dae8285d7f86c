package redfish

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"error":{"code":"x","@Message.ExtendedInfo":[{"MessageId":"iLO.2.34.UpdateInvalidFile","MessageArgs":"one"}]}}`))
	f.Add([]byte(`{"Messages":[{"MessageID":"iLO.0.10.X"}],"TaskState":"Completed","PercentComplete":"50"}`))
	f.Add([]byte(`{"Members":[{"@odata.id":"/a"},{"href":"/b"},"/c",1,null]}`))
	f.Add([]byte(`{"Actions":{"#A.SimpleUpdate":{"target":"/x"},"Oem":{"Hpe":{"#B.AddFromUri":{"target":"/y"}}}},"Oem":{"Hpe":{"State":1,"Result":{"MessageId":null}}}}`))
	f.Add([]byte(`{"Name":1,"Version":{"a":1},"Updateable":"True","RelatedItem":[{"@odata.id":"/Managers/1"}],"Oem":{"Hpe":{"Targets":"T"}}}`))
	f.Add([]byte(strings.Repeat(`[`, 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkDepth(data) != nil {
			require.Error(t, decode(data, new(any)))
			return
		}
		all := messages(data)
		telling(all)
		require.LessOrEqual(t, len(words(all)), maxText+3)
		refusal(&reply{status: 400, body: data})
		for _, v := range []any{&serviceRoot{}, &system{}, &manager{}, &software{}, &stateData{}} {
			_ = decode(data, v)
		}
		var u updateService
		if decode(data, &u) == nil {
			for _, name := range []string{"SimpleUpdate", "AddFromUri", "UpdateAll"} {
				u.action(name)
			}
			(&conn{}).device(software{}, "")
		}
		var s software
		if decode(data, &s) == nil {
			d, _, _, _ := (&conn{profile: ProfileILO5}).device(s, "/x/1")
			_, err := json.Marshal(d)
			require.NoError(t, err)
			require.NotEmpty(t, d.Class)
		}
	})
}

func FuzzPaths(f *testing.F) {
	f.Add("/redfish/v1/Systems?$expand=.")
	f.Add("https://elsewhere/redfish/v1")
	f.Add("//elsewhere/x")
	f.Add("///elsewhere/x")
	f.Add("https://here//elsewhere/x")
	f.Fuzz(func(t *testing.T, uri string) {
		p, err := pathOf(uri)
		if err == nil {
			require.True(t, strings.HasPrefix(p, "/"), p)
			require.False(t, strings.HasPrefix(p, "//"), p)
		}
	})
}

func FuzzCompare(f *testing.F) {
	f.Add("2.46 Oct 15 2021", "2.5")
	f.Add("U30 v2.36 (07/16/2020)", "A40 v2.36")
	f.Fuzz(func(t *testing.T, a, b string) {
		n, ok := compare(a, b)
		m, back := compare(b, a)
		require.Equal(t, ok, back)
		require.Equal(t, n, -m)
	})
}

func FuzzPins(f *testing.F) {
	f.Add([]byte("a:443 SHA256:x\n# note\n"), "a:443")
	f.Fuzz(func(_ *testing.T, data []byte, addr string) { _, _ = findPin(data, addr) })
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
		ok   bool
	}{
		{"2.46 Oct 15 2021", "2.46", 0, true}, {"2.9", "2.10", -1, true}, {"U30 v2.36 (07/16/2020)", "U30 v2.40", -1, true},
		{"U30 v2.36", "A40 v2.40", 0, false}, {"U30 v2.36", "2.40", -1, true}, {"HPD4", "HPD5", 0, false}, {"HPD4", "HPD4", 0, true},
		{"1.0", "1.0.0", 0, true}, {"", "", 0, false}, {"iLO 5 v2.46", "2.46", 0, true},
		{"2.9.0-rc1", "2.9.0", 0, false}, {"8.2.2a", "8.2.2b", 0, false}, {"7.10.64a", "7.10.64a", 0, true}, {"7.10.64a", "7.10.65", -1, true},
		{"2.46, Oct 15 2021", "2.46", 0, true}, {"2.46(Oct)", "2.46", 0, true}, {"U30 v2.36A", "U30 v2.36a", 0, true},
	} {
		n, ok := compare(c.a, c.b)
		require.Equal(t, c.want, n, "%s %s", c.a, c.b)
		require.Equal(t, c.ok, ok, "%s %s", c.a, c.b)
	}
}

func TestRead(t *testing.T) {
	long := strings.Repeat("x", maxText*2)
	require.Less(t, len(words([]message{{Text: text(long)}})), len(long))
}
