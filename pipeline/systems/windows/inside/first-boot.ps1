# A machine's first boot: its configuration is pulled, handed to the image's own script, the outcome reported.
# Runs as the system, by a task at each start, once for each machine: a reimaged or copied one has another id and begins
# anew. What has failed is tried again at the next start. Windows' own PowerShell and .NET are all it needs.
$ErrorActionPreference = 'Stop'

# Beside this file: source, deadline in seconds, and the script that takes the configuration on its input.
$here = Split-Path -Parent $MyInvocation.MyCommand.Path
$settings = Get-Content -Raw "$here\first-boot.json" | ConvertFrom-Json
$program = "$here\apply.ps1"
# The id of the machine that was configured last.
$done = "$here\machine"
# What Azure's machines carry as their chassis' asset tag, and what goldsmith's build guests do.
$azureTag = '7783-7084-3265-9085-8269-3286-77'
$buildTag = 'goldsmith-build'
$userData = 'http://169.254.169.254/metadata/instance/compute/userData?api-version=2021-01-01&format=text'
$telemetry = 'http://168.63.129.16/machine?comp=telemetrydata'
# The provider under which the Azure agent's own events are filed.
$provider = '69B669B9-4AF8-4C50-BDC4-6006FA76E975'
# Seconds: between two tries, doubled up to the last; for one answer; for Windows' own set-up to end.
$firstPause = 1
$lastPause = 15
$answer = 20
$setUp = 14400
# Bytes of a configuration.
$largest = 4MB
$state = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State'
$watch = [System.Diagnostics.Stopwatch]::StartNew()

function Write-Told($Kind, $Text) {
    $line = "first-boot: $Text"
    Add-Content -Path "$here\first-boot.log" -Value "$(Get-Date -Format s) $line"
    eventcreate.exe /l APPLICATION /t $Kind /id 1 /so first-boot /d ($line -replace '"', "'") | Out-Null
}

function Get-Why($Record) {
    # PowerShell wraps what .NET throws
    $inner = $Record.Exception
    while ($inner.InnerException) { $inner = $inner.InnerException }
    return $inner.Message
}

function New-Request($Url) {
    $request = [System.Net.WebRequest]::Create($Url)
    # past any proxy: both of Azure's addresses are the host's own
    $request.Proxy = New-Object System.Net.WebProxy
    $request.Timeout = $answer * 1000
    $request.ReadWriteTimeout = $answer * 1000
    $request.ServicePoint.Expect100Continue = $false
    return $request
}

function Get-Answer($Url, $Headers) {
    $request = New-Request $Url
    foreach ($name in $Headers.Keys) { $request.Headers.Add($name, $Headers[$name]) }
    $reply = $request.GetResponse()
    try {
        $stream = $reply.GetResponseStream()
        $body = New-Object System.IO.MemoryStream
        $piece = New-Object byte[] 65536
        while (($count = $stream.Read($piece, 0, $piece.Length)) -gt 0) {
            $body.Write($piece, 0, $count)
            if ($body.Length -gt $largest) { throw "more than $largest bytes" }
        }
        return , $body.ToArray()
    } finally {
        $reply.Close()
    }
}

function Wait-SetUp {
    # the task may be there before Windows is: no name, no network, nobody's settings yet
    while ((Get-ItemProperty -Path $state).ImageState -ne 'IMAGE_STATE_COMPLETE') {
        if ($watch.Elapsed.TotalSeconds -gt $setUp) { throw "Windows' set-up has not ended" }
        Start-Sleep -Seconds 2
    }
}

function Get-Configuration($Until) {
    $pause = $firstPause
    while ($true) {
        try {
            if ($settings.source -eq 'userdata') {
                $text = [System.Text.Encoding]::ASCII.GetString((Get-Answer $userData @{ Metadata = 'true' }))
                return , [System.Convert]::FromBase64String($text)
            }
            return , (Get-Answer $settings.source @{})
        } catch {
            $last = Get-Why $_
        }
        if ($watch.Elapsed.TotalSeconds + $pause -gt $Until) {
            throw "no configuration from $($settings.source): $last"
        }
        Start-Sleep -Seconds $pause
        $pause = [Math]::Min(2 * $pause, $lastPause)
    }
}

function Invoke-Program($Configuration, $Until) {
    $start = New-Object System.Diagnostics.ProcessStartInfo
    $start.FileName = "$PSHOME\powershell.exe"
    $start.Arguments = "-NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$program`""
    $start.UseShellExecute = $false
    $start.RedirectStandardInput = $true
    $start.RedirectStandardOutput = $true
    $start.RedirectStandardError = $true
    $process = [System.Diagnostics.Process]::Start($start)
    # both are read meanwhile: a full pipe would stop it
    $said = $process.StandardOutput.ReadToEndAsync()
    $wrong = $process.StandardError.ReadToEndAsync()
    try {
        $process.StandardInput.BaseStream.Write($Configuration, 0, $Configuration.Length)
        $process.StandardInput.Close()
    } catch [System.IO.IOException] {
        # it may end without having read everything
        $null = $_
    }
    $left = [Math]::Max(1, $Until - $watch.Elapsed.TotalSeconds)
    if (-not $process.WaitForExit([int]($left * 1000))) {
        taskkill.exe /t /f /pid $process.Id | Out-Null
        throw 'its program did not end before the deadline'
    }
    Add-Content -Path "$here\first-boot.log" -Value $said.Result
    Add-Content -Path "$here\first-boot.log" -Value $wrong.Result
    if ($process.ExitCode -ne 0) {
        # PowerShell's own message comes first, where it was thrown behind it
        $line = @($wrong.Result -split "`r?`n" | Where-Object { $_.Trim() }) + 'it said nothing'
        throw "its program ended with $($process.ExitCode): $($line[0].Trim())"
    }
}

function Send-Report($Good, $Message, $Seconds) {
    # as the agent tells the host of its own work; nobody need listen
    $fields = @(
        @('Name', 'first-boot', 'wstr'),
        @('Version', '1', 'wstr'),
        @('Operation', 'FirstBoot', 'wstr'),
        @('OperationSuccess', [string][bool]$Good, 'bool'),
        @('Message', ($Message -replace '[\x00-\x1f]', ' '), 'wstr'),
        @('Duration', [string][long]($Seconds * 1000), 'uint64')
    )
    $params = -join ($fields | ForEach-Object {
            '<Param Name="{0}" Value="{1}" T="mt:{2}" />' -f $_[0], [System.Security.SecurityElement]::Escape($_[1]), $_[2]
        })
    $xml = '<?xml version="1.0"?><TelemetryData version="1.0">' +
        "<Provider id=`"$provider`"><Event id=`"1`"><![CDATA[$params]]></Event></Provider></TelemetryData>"
    $bytes = [System.Text.Encoding]::UTF8.GetBytes($xml)
    foreach ($pause in 1, 5, 0) {
        try {
            $request = New-Request $telemetry
            $request.Method = 'POST'
            $request.ContentType = 'text/xml;charset=utf-8'
            $request.Headers.Add('x-ms-version', '2012-11-30')
            $request.ContentLength = $bytes.Length
            $stream = $request.GetRequestStream()
            $stream.Write($bytes, 0, $bytes.Length)
            $stream.Close()
            $request.GetResponse().Close()
            return
        } catch {
            Write-Told 'WARNING' "the host does not take the report: $(Get-Why $_)"
        }
        Start-Sleep -Seconds $pause
    }
}

$tag = [string](Get-CimInstance Win32_SystemEnclosure | Select-Object -First 1).SMBIOSAssetTag
$machine = [string](Get-CimInstance Win32_ComputerSystemProduct).UUID
$onAzure = $tag.StartsWith($azureTag)
if ($tag.StartsWith($buildTag)) {
    Write-Told 'INFORMATION' 'this guest is being built'
    exit 0
}
if ($machine -and (Test-Path $done) -and (Get-Content -Raw $done).Trim() -eq $machine) {
    exit 0
}
if ($settings.source -eq 'userdata' -and -not $onAzure) {
    Write-Told 'INFORMATION' 'not on Azure, there is no user data'
    exit 0
}
$good = $false
try {
    Wait-SetUp
    $began = $watch.Elapsed.TotalSeconds
    $until = $began + [double]$settings.deadline
    $configuration = Get-Configuration $until
    $message = 'no configuration was given'
    if ($configuration.Length) {
        Invoke-Program $configuration $until
        $message = "$($configuration.Length) bytes applied"
    }
    Set-Content -Path $done -Value $machine
    $good = $true
} catch {
    $message = Get-Why $_
}
$seconds = $watch.Elapsed.TotalSeconds - [double]$began
$kind = if ($good) { 'INFORMATION' } else { 'ERROR' }
Write-Told $kind "$message after $([Math]::Round($seconds, 1)) s"
if ($onAzure) { Send-Report $good $message $seconds }
exit [int](-not $good)
