package appid

import "gatehouse/policy"

// Redis serialization protocol (RESP2 and RESP3): "Redis serialization protocol
// specification" of the Redis documentation. A command as an array of bulk
// strings is proof; inline commands need a RESP reply. Replies are proof where
// they nest or name an error of this server.
var redisProtocol = protocol{
	app: policy.AppRedis, tcp: true,
	client: redisCommand, server: redisReply,
	clientFirsts: oneOf("*").or(between('A', 'Z')).or(between('a', 'z')), serverFirsts: oneOf("+-:$*%_~>#,(=!|"),
	mid: redisMid, attrs: redisAttrs,
}

const redisArgsMax = 1 << 20

func redisCommand(v *view) match {
	if v.c[0] != '*' {
		return redisInline(v)
	}
	rest := v.c[1:]
	args, n := number(rest)
	switch {
	case n == len(rest) && n < 8:
		return until(v.cFull)
	case n == 0 || args < 1 || args > redisArgsMax:
		return no
	}
	if rest = rest[n:]; begins(rest, "\r\n$") != yes {
		return begins(rest, "\r\n$")
	}
	rest = rest[3:]
	size, n := number(rest)
	switch {
	case n == len(rest) && n < 4:
		return until(v.cFull)
	case n == 0 || size < 1 || size > 64:
		return no
	}
	if rest = rest[n:]; begins(rest, "\r\n") != yes {
		return begins(rest, "\r\n")
	}
	rest = rest[2:]
	for i, c := range rest[:min(size, len(rest))] {
		// Names of commands, and of modules' commands such as JSON.SET.
		if !alpha(c) && (i == 0 || !digit(c) && c != '.' && c != '_' && c != '-') {
			return no
		}
	}
	if len(rest) < size {
		return until(v.cFull)
	}
	return begins(rest[size:], "\r\n")
}

// redisInlines are what people and health checks type without RESP.
var redisInlines = []string{"PING", "AUTH", "INFO", "GET", "SET", "QUIT", "EXISTS", "MONITOR", "SUBSCRIBE", "HELLO", "SELECT", "CONFIG", "KEYS", "ECHO", "COMMAND", "DBSIZE", "SYNC", "PSYNC", "REPLCONF"}

func redisInline(v *view) match {
	if v.serverFirst { // POP3 has some of these words too
		return no
	}
	if m := word(v.c, redisInlines); m != yes {
		return m
	}
	l, _, ok := line(v.c)
	if !ok {
		return until(v.cFull)
	}
	if !text(l) {
		return no
	}
	return fits
}

func redisReply(v *view) match {
	b := v.s
	if begins(b, "-DENIED Redis") == yes || begins(b, "-NOAUTH ") == yes {
		return yes
	}
	// POP3 greets whatever the client has said, with more than OK, or says nothing
	// but that it waits.
	if begins(b, "+OK ") == yes || begins(b, "+ ") == yes {
		return no
	}
	l, _, ok := line(b)
	switch b[0] {
	case '+', '-', '(', ',', '#', '_', '!', '=':
		if !text(l) || !ok && !text(b) {
			return no
		}
	default: // a number
		i := 1
		if b[0] != '_' && len(b) > 1 && (b[1] == '-' || b[1] == '+') {
			i++
		}
		_, n := number(b[i:])
		if i+n < len(b) && (n == 0 || b[i+n] != '\r') {
			return no
		}
	}
	if !ok {
		return until(v.sFull)
	}
	return fits
}

// redisErrors begin the errors of this server and no other's.
var redisErrors = []string{"-ERR wrong number", "-ERR unknown command", "-WRONGTYPE ", "-MOVED ", "-ASK ", "-NOSCRIPT ", "-LOADING ", "-MISCONF ", "-CLUSTERDOWN ", "-NOAUTH ", "-DENIED Redis", "-READONLY ", "-MASTERDOWN ", "-OOM command"}

// redisMid: errors, or bulk strings to the end of the bytes, of which there is
// more than one or an array's head.
func redisMid(b []byte) match {
	for _, e := range redisErrors {
		if begins(b, e) == yes {
			return yes
		}
	}
	nested := 0
	for n := 0; n < 64 && len(b) > 0; n++ {
		l, rest, ok := line(b)
		if !ok || len(l) < 2 || len(b)-len(rest) != len(l)+2 {
			break
		}
		size, digits := number(l[1:])
		if digits != len(l)-1 && string(l[1:]) != "-1" {
			return no
		}
		switch l[0] {
		case '*', '%', '~', '>':
			nested++
			b = rest
			continue
		case '$':
			if digits == 0 {
				b = rest
				continue
			}
			if len(rest) < size+2 {
				if nested > 0 && len(rest) > 0 {
					return yes
				}
				return more
			}
			if rest[size] != '\r' || rest[size+1] != '\n' {
				return no
			}
			nested++
			if b = rest[size+2:]; len(b) == 0 && size >= 2 {
				return yes
			}
			continue
		case ':':
			b = rest
			continue
		}
		return no
	}
	if nested >= 2 {
		return yes
	}
	return no
}

// redisArgument is the next argument of a command in RESP, and what follows it.
func redisArgument(b []byte) (arg, rest []byte) {
	l, rest, ok := line(b)
	if !ok || len(l) < 2 || l[0] != '$' {
		return nil, nil
	}
	n, _ := number(l[1:])
	if len(rest) < n+2 {
		return nil, nil
	}
	return rest[:n], rest[n+2:]
}

// redisAttrs: the first command, and the user of AUTH or HELLO; never a password.
func redisAttrs(v *view, a *Attrs) {
	l, b, ok := line(v.c)
	if !ok {
		return
	}
	if v.c[0] != '*' {
		a.Set(AttrMethod, upTo(v.c, " \r\n"))
		return
	}
	args, _ := number(l[1:])
	cmd, b := redisArgument(b)
	a.Set(AttrMethod, cmd)
	switch {
	case args == 3 && beginsFold(cmd, "AUTH") == yes:
		user, _ := redisArgument(b)
		a.Set(AttrUser, user)
	case beginsFold(cmd, "HELLO") == yes:
		version, b := redisArgument(b)
		a.Set(AttrVersion, version)
		if word, b := redisArgument(b); len(word) == 4 && beginsFold(word, "AUTH") == yes {
			user, _ := redisArgument(b)
			a.Set(AttrUser, user)
		}
	}
}
