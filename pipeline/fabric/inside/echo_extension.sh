#!/bin/sh
# The extension that a clone's agent installs in a proof: it reports what its settings say, those that are encrypted
# to the VM's certificate included. The agent calls it with its command's name, and gives it no other input than files.
[ "$1" = enable ] || exit 0
cd "$(dirname "$0")" || exit 1
number=${ConfigSequenceNumber:-0}
settings=config/$number.settings
mkdir -p status

value() {
    sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$settings"
}

# report STATUS CODE TEXT: the file that the agent reads; renamed into place, so that it is never read half written
report() {
    now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    printf '[{"version":1.0,"timestampUTC":"%s","status":{"operation":"Enable","status":"%s","code":%s,' \
        "$now" "$1" "$2" >"status/$number.new"
    printf '"formattedMessage":{"lang":"en-US","message":"%s"}}}]\n' "$3" >>"status/$number.new"
    mv "status/$number.new" "status/$number.status"
}

if [ ! -s "$settings" ]; then
    report error 2 "the agent wrote no settings"
    exit 2
fi
# the agent keeps the VM's certificates in the folder that its extensions are in
key=../$(value protectedSettingsCertThumbprint).prv
if [ ! -s "$key" ]; then
    report error 3 "the private key of the VM's certificate is not there"
    exit 3
fi
secret=$(value protectedSettings | base64 -d | openssl cms -decrypt -inform DER -inkey "$key" 2>/dev/null |
    sed -n 's/.*"secret": *"\([0-9a-f]*\)".*/\1/p')
if [ -z "$secret" ]; then
    report error 4 "the protected settings cannot be decrypted with the VM's certificate"
    exit 4
fi
report success 0 "read $(value public) $secret"
