$ErrorActionPreference = 'Stop'
Get-NetFirewallRule -Name 'goldsmith-*' -ErrorAction SilentlyContinue | Remove-NetFirewallRule
New-NetFirewallRule -Name 'goldsmith-tcp-443' -DisplayName 'web' -Direction Inbound -Action Allow -Protocol TCP -LocalPort 443 -Profile Any -Enabled True | Out-Null
New-NetFirewallRule -Name 'goldsmith-udp-53' -DisplayName 'UDP 53' -Direction Inbound -Action Allow -Protocol UDP -LocalPort 53 -Profile Any -Enabled True | Out-Null
exit 0
