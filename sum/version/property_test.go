package version

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/stretchr/testify/require"
)

// gen makes versions from few parts, so that pairs often share a prefix, and
// equal and nearly equal ones are common.
type gen struct{ *rand.Rand }

func newGen(seed uint64) gen { return gen{rand.New(rand.NewPCG(seed, 7))} }

func (g gen) pick(s ...string) string { return s[g.IntN(len(s))] }

func (g gen) many(n int, s ...string) string {
	var b strings.Builder
	for range g.IntN(n + 1) {
		b.WriteString(g.pick(s...))
	}
	return b.String()
}

// near makes the other half of a pair: often the first in another spelling, so
// that equal and almost equal pairs are tried too.
func (g gen) near(a string, next func() string) string {
	switch g.IntN(6) {
	case 0:
		return strings.ReplaceAll(a, "1", "01")
	case 1:
		return strings.TrimPrefix(a, "0:")
	case 2:
		return strings.Replace(a, "1", "2", 1)
	}
	return next()
}

func (g gen) deb() string {
	s := g.pick("", "", "0:", "1:") + g.pick("0", "1", "01", "10") +
		g.many(4, ".", "~", "+", "0", "1", "9", "10", "a", "b", "rc", "00", "-", "~~")
	return strings.TrimRight(s, "-") + g.pick("", "", "-0", "-1", "-1~bpo1", "-1+b1", "-a")
}

func (g gen) rpmVersion() string {
	return g.pick("0", "1", "01", "10", "a") + g.many(4, ".", "~", "^", "_", "0", "1", "9", "10", "a", "b", "rc", "00", ".1")
}

func (g gen) rpm() string {
	return g.pick("", "", "0:", "1:") + g.rpmVersion() + g.pick("", "-1", "-2.el9", "-2~1", "-10")
}

func (g gen) numeric() string {
	return g.pick("", "v") + g.pick("0", "1", "01", "10") + g.many(4, ".0", ".1", ".01", ".10", ".2")
}

func (g gen) hpe() string {
	switch g.IntN(12) {
	case 0:
		return g.pick("HPD", "HPG") + g.pick("1", "2", "3") + g.pick("", " (B)", "(C)")
	case 1:
		return g.pick("", "P70 ", "P71 ") + g.pick("07/01/2015", "05/21/2018", "(05/22/2018)") + g.pick("", " (B)", " (C)")
	case 2:
		return g.pick("2015.07.01", "2018.05.21", "2018.5.22", "2018.13.1") + g.pick("", " (B)", "(C)")
	case 3:
		return g.pick("0x01", "0x1", "0x0A", "0x31")
	default:
		return g.pick("", "", "U30 v", "P89 ", "v") + g.pick("1.0", "1.00.0", "1.1", "01.1.0", "1.1.4") + g.pick("", "", "", "a", "b", "b1") +
			g.pick("", "", " Build 1", " Build 2") + g.pick("", "", "(B)", " (C)") +
			g.pick("", "", " Dec 13 2017", " (07/16/2020)", "_07-17-2020")
	}
}

// TestOrderProperties holds antisymmetry, reflexivity and the transitivity of
// "older than" among comparable versions.
func TestOrderProperties(t *testing.T) {
	g := newGen(1)
	for scheme, next := range map[Scheme]func() string{Deb: g.deb, RPM: g.rpm, Numeric: g.numeric, HPE: g.hpe} {
		t.Run(string(scheme), func(t *testing.T) {
			var vs []Version
			for range 140 {
				v, err := Parse(scheme, next())
				require.NoError(t, err)
				vs = append(vs, v)
			}
			older := make([][]bool, len(vs))
			ordered := 0
			for i, a := range vs {
				older[i] = make([]bool, len(vs))
				for j, b := range vs {
					n, err := a.Compare(b)
					m, errBack := b.Compare(a)
					require.Equal(t, err == nil, errBack == nil, "%q %q", a, b)
					require.Equal(t, n, -m, "%q %q", a, b)
					if i == j {
						require.NoError(t, err)
						require.Zero(t, n, "%q", a)
					}
					older[i][j] = n < 0
					if n < 0 {
						ordered++
					}
				}
			}
			require.Greater(t, ordered, len(vs)*len(vs)/20, "the versions made are too unlike to prove anything")
			for i := range vs {
				for j := range vs {
					if !older[i][j] {
						continue
					}
					for k := range vs {
						if !older[j][k] || older[i][k] {
							continue
						}
						n, err := vs[i].Compare(vs[k])
						require.ErrorIs(t, err, ErrIncomparable, "%q < %q < %q, but %d", vs[i], vs[j], vs[k], n)
					}
				}
			}
		})
	}
}

// TestRealDpkg asks dpkg itself, which a shell starts for each pair.
func TestRealDpkg(t *testing.T) {
	dpkg, sh := realtest.Need(t, "dpkg"), realtest.Need(t, "sh")
	g := newGen(2)
	var pairs [][2]string
	var input strings.Builder
	for range 400 {
		a := g.deb()
		p := [2]string{a, g.near(a, g.deb)}
		pairs = append(pairs, p)
		fmt.Fprintf(&input, "%s %s\n", p[0], p[1])
	}
	cmd := exec.CommandContext(t.Context(), sh, "-c", `while read -r a b; do
		if "$0" --compare-versions "$a" lt "$b"; then echo -1
		elif "$0" --compare-versions "$a" gt "$b"; then echo 1
		elif "$0" --compare-versions "$a" eq "$b"; then echo 0
		else echo error; fi
	done`, dpkg)
	cmd.Stdin = strings.NewReader(input.String())
	out, err := cmd.Output()
	require.NoError(t, err)
	compareWithReal(t, Deb, pairs, strings.Fields(string(out)))
}

// TestRealRPM asks rpm's own comparison, in one process, through its Lua
// interpreter: bare versions by rpm.vercmp and whole ones by rpm.ver.
func TestRealRPM(t *testing.T) {
	rpm := realtest.Need(t, "rpm")
	g := newGen(3)
	var bare, whole [][2]string
	for range 400 {
		v := g.rpmVersion()
		bare = append(bare, [2]string{v, g.near(v, g.rpmVersion)})
		// rpm.ver orders a version with a release after one without. Dependencies,
		// and this package, compare releases only when there are two.
		a := g.rpm()
		b := g.near(a, g.rpm)
		if strings.Contains(a, "-") == strings.Contains(b, "-") {
			whole = append(whole, [2]string{a, b})
		}
	}
	ask := func(pairs [][2]string, compare string) []string {
		var script strings.Builder
		script.WriteString("%{lua: local function c(a,b) " + compare + " end\n")
		for _, p := range pairs {
			fmt.Fprintf(&script, "print(c(%q,%q)..' ')\n", p[0], p[1])
		}
		out, err := exec.CommandContext(t.Context(), rpm, "--eval", script.String()+"}").CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.Fields(string(out))
	}
	compareWithReal(t, RPM, bare, ask(bare, `return rpm.vercmp(a,b)`))
	if slices.Contains(ask(bare[:1], `return rpm.ver and "yes" or "no"`), "no") {
		t.Log("this rpm has no rpm.ver: epochs and releases were not compared")
		return
	}
	compareWithReal(t, RPM, whole, ask(whole,
		`a,b=rpm.ver(a),rpm.ver(b) if a<b then return -1 elseif b<a then return 1 end return 0`))
}

func compareWithReal(t *testing.T, scheme Scheme, pairs [][2]string, real []string) {
	t.Helper()
	require.Len(t, real, len(pairs))
	count := map[string]int{}
	for i, p := range pairs {
		n, err := Compare(scheme, p[0], p[1])
		require.NoError(t, err)
		require.Equal(t, real[i], fmt.Sprint(n), "%q %q", p[0], p[1])
		count[real[i]]++
	}
	require.Greater(t, count["-1"], 50)
	require.Greater(t, count["1"], 50)
	require.Greater(t, count["0"], 10)
	t.Logf("%s: %v", scheme, count)
}

func FuzzCompare(f *testing.F) {
	g := newGen(4)
	for range 20 {
		f.Add("deb", g.deb(), g.deb())
		f.Add("rpm", g.rpm(), g.rpm())
		f.Add("numeric", g.numeric(), g.numeric())
		f.Add("hpe", g.hpe(), g.hpe())
	}
	f.Add("hpe", "iLO 5 v2.78", "0x31")
	f.Fuzz(func(t *testing.T, scheme, a, b string) {
		n, err := Compare(Scheme(scheme), a, b)
		m, errBack := Compare(Scheme(scheme), b, a)
		require.Equal(t, n, -m)
		require.Equal(t, err == nil, errBack == nil)
		require.Contains(t, []int{-1, 0, 1}, n)
		if err != nil {
			require.ErrorIs(t, err, ErrIncomparable)
			require.Zero(t, n)
			return
		}
		self, err := Compare(Scheme(scheme), a, a)
		require.NoError(t, err)
		require.Zero(t, self)
	})
}
