package smbtest

import "strings"

// splitCommand splits a command line as Windows does (CommandLineToArgvW): the
// program first, in quotation marks or up to a blank, then arguments, in which
// backslashes are special only before a quotation mark.
func splitCommand(line string) []string {
	line = strings.TrimLeft(line, " \t")
	if line == "" {
		return nil
	}
	var argv []string
	if rest, ok := strings.CutPrefix(line, `"`); ok {
		program, rest, _ := strings.Cut(rest, `"`)
		argv, line = append(argv, program), rest
	} else if i := strings.IndexAny(line, " \t"); i >= 0 {
		argv, line = append(argv, line[:i]), line[i:]
	} else {
		return []string{line}
	}
	var arg strings.Builder
	inArg, quoted := false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\':
			inArg = true
			n := 1
			for i+n < len(line) && line[i+n] == '\\' {
				n++
			}
			if i+n < len(line) && line[i+n] == '"' {
				arg.WriteString(strings.Repeat(`\`, n/2))
				if n%2 == 1 {
					arg.WriteByte('"')
					i++
				}
			} else {
				arg.WriteString(strings.Repeat(`\`, n))
			}
			i += n - 1
		case c == '"' && quoted && i+1 < len(line) && line[i+1] == '"':
			arg.WriteByte('"')
			i++
		case c == '"':
			inArg, quoted = true, !quoted
		case (c == ' ' || c == '\t') && !quoted:
			if inArg {
				argv = append(argv, arg.String())
				arg.Reset()
				inArg = false
			}
		default:
			inArg = true
			arg.WriteByte(c)
		}
	}
	if inArg {
		argv = append(argv, arg.String())
	}
	return argv
}
